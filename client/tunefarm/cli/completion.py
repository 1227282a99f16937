"""tunefarm completion: what lets a shell complete the commands, made from their parsers"""

import argparse
from dataclasses import dataclass, field

from tunefarm.cli.output import print_json
from tunefarm.cli.parsing import leaves

# What an option takes, as far as a shell can help.
_FILES = ("FILE", "DIR", "A", "B")
_ALSO_FILES = ("workload",)  # a bundle's or a C file's name, too


@dataclass
class Node:
    """One command: its verbs with a line on each, its options, and what those take.

    `takes` is of options with a value: its choices, or ["@file"], or [].
    """

    words: tuple[str, ...]
    verbs: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    takes: dict[str, list[str]] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    files: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("shell", choices=tuple(_WRITERS), help="which one is to learn it")
    parser.add_argument("--json", action="store_true", help="print the words themselves, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from tunefarm.cli import build_parser

    nodes = nodes_of(build_parser())
    if arguments.json:
        print_json({" ".join(("tunefarm", *node.words)): vars(node) for node in nodes})
    else:
        print(_WRITERS[arguments.shell](nodes), end="")
    return 0


def nodes_of(parser: argparse.ArgumentParser) -> list[Node]:
    """Every command below a parser."""
    return [_node(words, one) for words, one in leaves(parser)]


def _node(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Node:
    node = Node(words)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            node.verbs = {one.dest: one.help or "" for one in action._choices_actions}
        elif action.option_strings:
            for option in action.option_strings:
                node.options[option] = _first_line(action)
                if action.nargs != 0:
                    node.takes[option] = _values(action)
        else:
            node.choices += [str(one) for one in action.choices or ()]
            node.files |= _values(action) == ["@file"] or action.dest in _ALSO_FILES
    return node


def _first_line(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").split(";")[0].split(" (")[0]


def _values(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(one) for one in action.choices]
    return ["@file"] if action.metavar in _FILES else []


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _case(nodes: list[Node], of: str, lines: list[str]) -> str:
    """A shell function that answers by the command's words."""
    body = "\n".join(f"    {line}" for line in lines)
    return f'{of}() {{\n  case "$1" in\n{body}\n  esac\n}}\n'


def _tables(nodes: list[Node]) -> str:
    """Functions for bash and zsh: what may follow a command, and what an option of it takes."""
    follow, values, verbs = [], [], []
    for node in nodes:
        path = _quoted(" ".join(node.words))
        words = [*node.verbs, *node.choices]
        follow.append(f"{path}) echo {_quoted(' '.join([*words, *node.options]))} ;;")
        verbs.append(f"{path}) echo {_quoted(' '.join(node.verbs))} ;;")
        cases = [
            f"{_quoted(' '.join((*node.words, option)))}) echo {_quoted(taken)} ;;"
            for option, taken in ((o, " ".join(t) or "@any") for o, t in node.takes.items())
        ]
        if node.files:
            cases.append(f"{_quoted(' '.join(node.words) + ' @')}) echo '@file' ;;")
        values += cases
    return (
        _case(nodes, "_tunefarm_words", follow)
        + _case(nodes, "_tunefarm_verbs", verbs)
        + _case(nodes, "_tunefarm_takes", [*values, "*) echo '' ;;"])
    )


_BASH = """\
_tunefarm() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} at='' word takes
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ " $(_tunefarm_verbs "$at") " == *" $word "* ]]; then at="${at:+$at }$word"; fi
  done
  COMPREPLY=()
  takes=$(_tunefarm_takes "$at $before")
  if [[ $before != -* ]]; then takes=; fi
  if [[ -z $takes && $current != -* ]]; then
    COMPREPLY=($(compgen -W "$(_tunefarm_words "$at")" -- "$current"))
    if [[ $(_tunefarm_takes "$at @") == @file ]]; then
      compopt -o filenames 2>/dev/null
      COMPREPLY+=($(compgen -f -- "$current"))
    fi
    return
  fi
  case $takes in
    '') COMPREPLY=($(compgen -W "$(_tunefarm_words "$at")" -- "$current")) ;;
    @file) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")) ;;
    @any) ;;
    *) COMPREPLY=($(compgen -W "$takes" -- "$current")) ;;
  esac
}
complete -F _tunefarm tunefarm
"""

_ZSH = """\
_tunefarm() {
  local at='' word takes before=${words[CURRENT-1]} current=${words[CURRENT]}
  local -i i
  for ((i = 2; i < CURRENT; i++)); do
    word=${words[i]}
    if [[ " $(_tunefarm_verbs "$at") " == *" $word "* ]]; then at="${at:+$at }$word"; fi
  done
  takes=
  if [[ $before == -* ]]; then takes=$(_tunefarm_takes "$at $before"); fi
  case $takes in
    '')
      compadd -- ${=$(_tunefarm_words "$at")}
      if [[ $current != -* && $(_tunefarm_takes "$at @") == @file ]]; then _files; fi ;;
    @file) _files ;;
    @any) _message value ;;
    *) compadd -- ${=takes} ;;
  esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _tunefarm "$@"
else
  compdef _tunefarm tunefarm
fi
"""


def bash(nodes: list[Node]) -> str:
    """For `eval "$(tunefarm completion bash)"`, or a file in bash-completion's folder."""
    return f"# bash completion for tunefarm\n{_tables(nodes)}{_BASH}"


def zsh(nodes: list[Node]) -> str:
    """For `eval` after compinit, or a file _tunefarm in a folder of fpath."""
    return f"#compdef tunefarm\n{_tables(nodes)}{_ZSH}"


def fish(nodes: list[Node]) -> str:
    """For `tunefarm completion fish | source`, or ~/.config/fish/completions/tunefarm.fish."""
    lines = ["# fish completion for tunefarm", "complete -c tunefarm -f", _FISH]
    for node in nodes:
        at = f"-n {_quoted('__tunefarm_at ' + _quoted_fish(' '.join(node.words)))}"
        for verb, summary in node.verbs.items():
            lines.append(f"complete -c tunefarm {at} -a {verb} -d {_quoted_fish(summary)}")
        if node.choices:
            lines.append(f"complete -c tunefarm {at} -a {_quoted_fish(' '.join(node.choices))}")
        if node.files:
            lines.append(f"complete -c tunefarm {at} -F")
        for option, summary in node.options.items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            taken = node.takes.get(option)
            value = "" if taken is None else _fish_value(taken)
            lines.append(f"complete -c tunefarm {at} {flag}{value} -d {_quoted_fish(summary)}")
    return "\n".join(lines) + "\n"


# Where the words so far lead: each verb that the command reached has.
_FISH = """\
function __tunefarm_at
    set -l at
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
@VERBS@
        end
    end
    test "$at" = "$argv"
end"""


def _quoted_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_value(taken: list[str]) -> str:
    if taken == ["@file"]:
        return " -r -F"
    return f" -x -a {_quoted_fish(' '.join(taken))}" if taken else " -x"


def _fish_script(nodes: list[Node]) -> str:
    reached = [
        f"            case {_quoted_fish(' '.join(node.words) + ' ' + verb)}\n"
        f"                set at {_quoted_fish(' '.join((*node.words, verb)))}"
        for node in nodes
        for verb in node.verbs
    ]
    return fish(nodes).replace("@VERBS@", "\n".join(reached))


_WRITERS = {"bash": bash, "zsh": zsh, "fish": _fish_script}
