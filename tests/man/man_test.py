"""The manual pages against the programs: each command, option and default of --help stands in the page, and
nothing else does; the pages have no errors of markup. GUARD_BIN names the programs' directory, GUARD_MAN the
pages'."""

import os
import re
import subprocess
import unittest

BIN, MAN = os.environ["GUARD_BIN"], os.environ["GUARD_MAN"]
SECTIONS = {"xapi-guard": "8", "xapi-guardctl": "1", "xapi-sim": "1", "xapiguard_cli": "1"}
PROGRAMS = tuple(SECTIONS)


def page_of(program):
    return os.path.join(MAN, "%s.%s" % (program, SECTIONS[program]))


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
    with open(page_of(program), encoding="utf-8") as page:
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

    def check_markup(self, page):
        """The page as it is shown."""
        shown = subprocess.run(["man", "--warnings=all,mac", "-l", page], capture_output=True, text=True, timeout=60,
                               check=False, env={**os.environ, "LC_ALL": "C", "MANWIDTH": "1000", "MANPAGER": "cat"})
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        return shown.stdout

    def test_the_markup_is_sound_and_nothing_is_lost_in_it(self):
        for program in PROGRAMS:
            with self.subTest(program):
                shown = self.check_markup(page_of(program))
                for options_of in what_help_says(program).values():
                    for option in options_of:
                        self.assertIn(option, shown)

    def test_the_page_of_the_configuration_says_what_the_example_says(self):
        page = os.path.join(MAN, "xapi-guard.toml.5")
        with open(page, encoding="utf-8") as file:
            listed = re.findall(r"^\.It Cm (\S+) No = Ar (.*)$", file.read(), re.M)
        example = os.path.join(MAN, "..", "packaging", "xapi-guard.toml")
        with open(example, encoding="utf-8") as file:
            wanted = re.findall(r"^#([a-z-]+) = (.*)$", file.read(), re.M)
        self.assertGreater(len(wanted), 15)
        self.assertEqual([(key, value.replace("\\(dq", '"')) for key, value in listed], wanted)
        self.check_markup(page)

    def test_every_page_is_installed(self):
        with open(os.path.join(MAN, "CMakeLists.txt"), encoding="utf-8") as file:
            rules = file.read()
        pages = sorted(name for name in os.listdir(MAN) if name != "CMakeLists.txt")
        self.assertEqual(pages, sorted([*(os.path.basename(page_of(p)) for p in PROGRAMS), "xapi-guard.toml.5"]))
        for name in pages:
            self.assertRegex(rules, r"install\(FILES [^)]*\b%s\b[^)]*/man%s\"" % (re.escape(name), name[-1]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
