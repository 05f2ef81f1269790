# Completion of xapi-guardctl(1) for bash: asks the program itself, so that it knows what this version knows.

# Words of a section of the help in $1: "Options" or "Subcommands".
_xapi_guardctl_words() {
  awk -v section="$2:" '
    /^[A-Za-z]+:$/ { inside = $0 == section }
    inside && /^  [^ ]/ { sub(/^-.,/, "", $1); print $1 }' <<<"$1"
}

# Whether the option $2 takes a value, by the help in $1.
_xapi_guardctl_takes_value() {
  awk -v option="$2" '{ name = $1; sub(/^-.,/, "", name) }
    /^  -/ && name == option { found = $2 ~ /^[A-Z][A-Z:]*(=|$)/ }
    END { exit !found }' <<<"$1"
}

_xapi_guardctl() {
  local program=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} command=() help words i
  help=$("$program" --help 2>/dev/null) || return
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == -* ]]; then
      if _xapi_guardctl_takes_value "$help" "${COMP_WORDS[i]}"; then ((++i)); fi
    elif grep -qxF -e "${COMP_WORDS[i]}" <<<"$(_xapi_guardctl_words "$help" Subcommands)"; then
      command+=("${COMP_WORDS[i]}")
      help=$("$program" "${command[@]}" --help 2>/dev/null) || return
    fi
  done
  # Behind an option that takes a value, and where no command can follow: names of files, by the option below.
  if ((i > COMP_CWORD)); then return; fi
  if [[ $current == -* ]]; then
    words=$(_xapi_guardctl_words "$help" Options)
  else
    words=$(_xapi_guardctl_words "$help" Subcommands)
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -o default -F _xapi_guardctl xapi-guardctl
