"""A terminal's screen (tmux capture-pane -e) as a page of HTML."""

import html
import re
import sys

COLOURS = ["#2e3436", "#ef5350", "#7cb342", "#fbc02d", "#42a5f5", "#ab47bc", "#26c6da", "#cfd8dc"]


def style(codes, state):
    """The state after an SGR sequence."""
    codes = [int(code or 0) for code in codes.split(";")] or [0]
    while codes:
        code = codes.pop(0)
        if code == 0:
            state = {}
        elif code == 1:
            state = state | {"font-weight": "bold"}
        elif code == 2:
            state = state | {"opacity": "0.6"}
        elif code == 7:
            state = state | {"color": "#14181c", "background": "#cfd8dc"}
        elif 30 <= code <= 37:
            state = state | {"color": COLOURS[code - 30]}
        elif 40 <= code <= 47:
            state = state | {"background": COLOURS[code - 40]}
        elif 90 <= code <= 97:
            state = state | {"color": COLOURS[code - 90]}
    return state


def main():
    text = open(sys.argv[1], encoding="utf-8").read().rstrip("\n")
    out, state = [], {}
    for part in re.split(r"(\x1b\[[0-9;]*m)", text):
        sequence = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
        if sequence:
            state = style(sequence[1], state)
        elif part:
            css = ";".join(f"{key}:{value}" for key, value in state.items())
            out.append(f'<span style="{css}">{html.escape(part)}</span>')
    print(
        "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#14181c;color:#cfd8dc}"
        "pre{margin:12px;font:13px/17px 'DejaVu Sans Mono',monospace}</style>"
        f"<pre>{''.join(out)}</pre>"
    )


main()
