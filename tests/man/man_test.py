"""The manual pages against the programs: each command, option and default of --help stands in the page, and
nothing else does; the pages have no errors of markup. GUARD_BIN names the programs' directory, GUARD_MAN the
pages'."""

import os
import re
import subprocess
import unittest

BIN, MAN = os.environ["GUARD_BIN"], os.environ["GUARD_MAN"]
PROGRAMS = ("xapi-guard", "xapi-guardctl", "xapi-sim", "xapiguard_cli")


def help_of(program, *commands):
    done = subprocess.run([os.path.join(BIN, program), *commands, "--help"], capture_output=True, text=True,
                          timeout=60, check=True)
    return done.stdout


def sections(text):
    """The lines of "Options:" and "Subcommands:", by section; continued lines are joined."""
    found, name = {}, None
    for line in text.splitlines():
        if re.fullmatch(r"\w+:", line):
            name = line[:-1]
            found[name] = []
        elif not line.strip():
            name = None
        elif name and re.match(r"  \S", line):
            found[name].append(line.strip())
        elif name:
            found[name][-1] += "  " + line.strip()
    return found


def options(text):
    """{option: default or None} of one help text."""
    found = {}
    for line in sections(text).get("Options", []):
        name = re.match(r"(?:-\w,)?(--[\w-]+)", line)[1]
        head = re.split(r"  +", line)[0]
        default = re.search(r"=(\S+)", head)
        found[name] = default[1] if default else None
    return found


def commands(text):
    return [line.split()[0] for line in sections(text).get("Subcommands", [])]


def what_help_says(program):
    """Commands in full ("journal inspect") with their options; the program's own stand under ""."""
    top = help_of(program)
    said = {"": options(top)}

    def descend(path, text):
        inner = commands(text)
        for name in inner:
            below = help_of(program, *path, name)
            if not commands(below):
                said[" ".join((*path, name))] = {k: v for k, v in options(below).items() if k != "--help"}
            descend((*path, name), below)

    descend((), top)
    return said


def what_the_page_says(program):
    """The same, from the items of the page: an item of options belongs to the item of commands above it. A default
    is what follows "Default: "."""
    said, command, option, in_commands, shared = {"": {}}, "", None, False, []
    with open(os.path.join(MAN, program + ".8"), encoding="utf-8") as page:
        lines = page.read().splitlines()
    for line in lines:
        line = line.replace("\\-", "-")
        if line.startswith(".Sh "):
            in_commands, command, option = line == ".Sh COMMANDS", "", None
        elif line.startswith(".It Cm "):
            words = re.match(r"\.It Cm ((?:[a-z_-]+ ?)+)", line)[1].split()
            option, command = None, " ".join(words)
            said[command] = {}
            shared.append((command, set(re.findall(r"Fl (--?[\w-]+)", line))))
        elif line.startswith(".It ") and "Fl -" in line and (command or not in_commands):
            option = "-" + re.findall(r"Fl (-[\w-]+)", line)[-1]
            said[command][option] = None
        elif option and line.startswith("Default: "):
            said[command][option] = line[len("Default: "):].rstrip(".")
    # An option that two commands take is explained once, below the last; the others name it in their own line.
    for number, (name, flags) in enumerate(shared):
        for flag in sorted("-" + f for f in flags):
            if flag not in said[name]:
                after = [said[n] for n, _ in shared[number + 1:] if flag in said[n]]
                if after:
                    said[name][flag] = after[0][flag]
    return said


class Pages(unittest.TestCase):
    def test_each_page_says_what_help_says(self):
        for program in PROGRAMS:
            with self.subTest(program):
                said, page = what_help_says(program), what_the_page_says(program)
                self.assertEqual(sorted(page), sorted(said), "commands")
                for command, wanted in said.items():
                    self.assertEqual(sorted(page[command]), sorted(wanted), "options of '%s'" % command)
                    for option, default in wanted.items():
                        if default is not None:
                            self.assertEqual(page[command][option], default, "default of %s %s" % (command, option))

    def test_the_comparison_sees_something(self):
        said = what_help_says("xapi-guardctl")
        self.assertIn("journal inspect", said)
        self.assertIn("--records", said["journal inspect"])
        self.assertEqual(said["drain"]["--timeout"], "60")
        self.assertEqual(what_help_says("xapi-guard")[""]["--direct-timeout"], "500ms")

    def test_the_markup_is_sound_and_nothing_is_lost_in_it(self):
        for program in PROGRAMS:
            with self.subTest(program):
                shown = subprocess.run(["man", "--warnings=all,mac", "-l", os.path.join(MAN, program + ".8")],
                                       capture_output=True, text=True, timeout=60, check=False,
                                       env={**os.environ, "LC_ALL": "C", "MANWIDTH": "1000", "MANPAGER": "cat"})
                self.assertEqual((shown.returncode, shown.stderr), (0, ""))
                for options_of in what_help_says(program).values():
                    for option in options_of:
                        self.assertIn(option, shown.stdout)

    def test_every_page_is_installed(self):
        with open(os.path.join(MAN, "CMakeLists.txt"), encoding="utf-8") as file:
            rules = file.read()
        for name in os.listdir(MAN):
            if name.endswith(".8"):
                self.assertIn(name, rules)
                self.assertIn(name[:-2], PROGRAMS)


if __name__ == "__main__":
    unittest.main(verbosity=2)
