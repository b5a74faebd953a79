"""The parser of every command: faults in one sentence, and a help of one screen with an example."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from llgbm.errors import InputError

COMMON = "Also: --quiet (no progress), --debug (the traceback of a fault)."


class CommandParser(argparse.ArgumentParser):
    """A parser that knows which flags are fields of a config; these have a help of their own, `--help_config`.

    Args:
        description: What the command does.
        example: A command line that works after `llgbm quickstart`.
        options: As argparse takes them.
    """

    def __init__(self, description: str = "", example: str = "", **options: Any) -> None:
        super().__init__(description=description, formatter_class=_OneName, allow_abbrev=False, **options)
        self.example = example
        self.bare: str | None = None
        """The flag that words without a flag are for: one word, or several where the flag takes several."""
        self.config_groups: list[_ConfigGroup] = []
        self.pages: list[_Page] = []

    def add_config_group(self, title: str) -> "_ConfigGroup":
        """Add a section of config fields."""
        if not self.config_groups:
            text = "show the flags of every config field"
            self.add_argument("--help_config", action=_Help, nargs=0, const=self.format_config_help, help=text)
        self.config_groups.append(_ConfigGroup(self, title))
        return self.config_groups[-1]

    def add_page(self, flag: str, title: str) -> "_Page":
        """Add a section of flags that `flag` shows, and the command's help does not."""
        self.pages.append(_Page(self, title))
        self.add_argument(flag, action=_Help, nargs=0, const=self.pages[-1].format_help, help=argparse.SUPPRESS)
        return self.pages[-1]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does, and take words that belong to no flag for the bare one; what is left then is a fault of this parser."""
        namespace, extras = super().parse_known_args(args, namespace)
        flags = next((i for i, word in enumerate(extras) if word.startswith("-")), len(extras))
        if extras and (flags < len(extras) or not self._take_bare(namespace, extras)):
            self.error(f"unrecognized arguments: {' '.join(extras[flags:] or extras)}")
        return namespace, []

    def _take_bare(self, namespace: argparse.Namespace, words: list[str]) -> bool:
        """Give the bare flag its words, unless it has some or these are none of its."""
        action = next((action for action in self._actions if action.dest == self.bare), None)
        if action is None:
            return False
        many, given = action.nargs is not None, getattr(namespace, action.dest) is not action.default
        if given or (len(words) > 1 and not many):
            return False
        setattr(namespace, action.dest, words if many else words[0])
        return True

    def error(self, message: str) -> NoReturn:
        """InputError, with the flag that was probably meant."""
        raise InputError(f"{message}{self._nearest(message)}; '{self.prog} --help' shows the flags")

    def _nearest(self, message: str) -> str:
        _, unrecognized, flags = message.partition("unrecognized arguments: --")
        words = flags.split() if unrecognized else []
        near = difflib.get_close_matches(f"--{words[0].split('=')[0]}", self._option_string_actions, n=1) if words else []
        return f" (did you mean {near[0]}?)" if near else ""

    def format_help(self) -> str:
        """Description, flags (but fields of the config, and those of pages), an example."""
        words = [(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        usage = " ".join([self.prog, *map(str, words), *([f"[{self.bare.upper()}]"] if self.bare else []), "[flags]"])
        lines = [f"usage: {usage}", "", *_wrapped(self, self.description or "")]
        shown = [action for action in self._actions if action not in self._elsewhere()]
        lines += ["", _section(self, "flags", [a for a in shown if a.option_strings]).rstrip()]
        positional = [action for action in shown if not action.option_strings]
        if positional:
            lines[-1:-1] = [_section(self, "arguments", positional)]
        if self.config_groups:
            lines += ["", "Any field of the config is a flag too: see --help_config."]
        lines += [] if self.config_groups else [""]
        lines += [COMMON, *(["", f"example: {self.example}"] if self.example else [])]
        return "\n".join(lines) + "\n"

    def format_config_help(self) -> str:
        """The flags of the config's fields by section."""
        return "\n".join(_section(self, group.title, group.documented) for group in self.config_groups)

    def _elsewhere(self) -> set[argparse.Action]:
        return {action for group in (*self.config_groups, *self.pages) for action in group.actions}


class _ConfigGroup:
    """A section of a config."""

    def __init__(self, parser: CommandParser, title: str) -> None:
        self.parser, self.title = parser, title
        self.actions: list[argparse.Action] = []
        self.documented: list[argparse.Action] = []

    def add_field(self, flag: str, text: str, hidden: bool) -> None:
        """Add a field's flag; one that has a flag already (`hidden`) is documented only."""
        text = text.replace("%", "%%")
        self.documented.append(argparse.Action([flag], flag[2:], metavar="X", help=text))
        if not hidden:
            self.actions.append(self.parser.add_argument(flag, dest=flag[2:], default=None, metavar="X", help=text))


class _Page:
    """Flags with a help of their own."""

    def __init__(self, parser: CommandParser, title: str) -> None:
        self.parser, self.title = parser, title
        self.actions: list[argparse.Action] = []

    def add_argument(self, flag: str, **options: Any) -> None:
        """As a parser's."""
        self.actions.append(self.parser.add_argument(flag, **options))

    def format_help(self) -> str:
        """Its flags."""
        return _section(self.parser, self.title, self.actions)


class _OneName(argparse.HelpFormatter):
    """Shows the first name of a flag; the others are older names of it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=25)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0] if action.dest != "help" else "--help"
        return name if action.nargs == 0 else f"{name} {self._format_args(action, action.dest.upper())}"  # type: ignore[arg-type]


class _Help(argparse.Action):
    """Prints what `const` gives, and ends."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        assert callable(self.const)
        print(self.const())
        parser.exit()


def _section(parser: CommandParser, title: str, actions: Sequence[argparse.Action]) -> str:
    formatter = parser._get_formatter()
    formatter.start_section(title)
    formatter.add_arguments(actions)
    formatter.end_section()
    return formatter.format_help()


def _wrapped(parser: CommandParser, text: str) -> list[str]:
    formatter = parser._get_formatter()
    formatter.add_text(text)
    return formatter.format_help().rstrip().splitlines()
