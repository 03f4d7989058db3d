#!/usr/bin/env python3
"""Pictures of the live view: real runs in a real terminal (tmux), captured and drawn as SVG.

    cargo build --release && docs/screens.py target/release

Starts an engine on a free port with segments in a temporary folder, runs the generator beside it, and
writes docs/live.svg while the run goes on and docs/summary.svg at its end. Needs tmux; what it starts,
it ends.
"""

import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS, ROWS = 112, 40
# One cell, in pixels, of the font size below.
WIDTH, HEIGHT, SIZE = 8.4, 18, 14
BACKGROUND, FOREGROUND = "#0f172a", "#e2e8f0"
# The sixteen colours of a terminal; black is one that can be seen on the background.
COLOURS = ["#475569", "#f87171", "#4ade80", "#facc15", "#60a5fa", "#e879f9", "#22d3ee", "#e2e8f0"]
BRIGHT = ["#94a3b8", "#fca5a5", "#86efac", "#fde047", "#93c5fd", "#f0abfc", "#67e8f9", "#ffffff"]


def indexed(number):
    """The colour of a number of the 256."""
    if number < 16:
        return (COLOURS + BRIGHT)[number]
    if number >= 232:
        level = 8 + 10 * (number - 232)
        return f"#{level:02x}{level:02x}{level:02x}"
    number -= 16
    parts = [number // 36, number // 6 % 6, number % 6]
    return "#" + "".join(f"{0 if part == 0 else 55 + 40 * part:02x}" for part in parts)


class Style:
    def __init__(self):
        self.reset()

    def reset(self):
        self.ink = self.paper = None
        self.bold = self.dim = self.reverse = self.underline = False

    def key(self):
        return (self.ink, self.paper, self.bold, self.dim, self.reverse, self.underline)

    def take(self, codes):
        """Takes the numbers of one SGR sequence."""
        codes = codes or [0]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.reset()
            elif code in (1, 2, 4, 7):
                setattr(self, {1: "bold", 2: "dim", 4: "underline", 7: "reverse"}[code], True)
            elif code == 22:
                self.bold = self.dim = False
            elif code in (24, 27):
                setattr(self, {24: "underline", 27: "reverse"}[code], False)
            elif code in (38, 48):
                kind = codes.pop(0)
                if kind == 5:
                    colour = indexed(codes.pop(0))
                else:
                    colour = "#" + "".join(f"{codes.pop(0):02x}" for _ in range(3))
                setattr(self, "ink" if code == 38 else "paper", colour)
            elif code in (39, 49):
                setattr(self, "ink" if code == 39 else "paper", None)
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.ink = (COLOURS if code < 90 else BRIGHT)[code % 10]
            elif 40 <= code <= 47 or 100 <= code <= 107:
                self.paper = (COLOURS if code < 100 else BRIGHT)[code % 10]


def cells(line, style):
    """The characters of a captured line, each with its style."""
    out = []
    for part in re.split(r"(\x1b\[[0-9;:]*m)", line):
        if part.startswith("\x1b["):
            codes = re.split("[;:]", part[2:-1])
            style.take([int(code) for code in codes if code])
        else:
            out += [(letter, style.key()) for letter in part]
    return out


def svg(captured, title):
    lines = captured.rstrip("\n").split("\n")
    while lines and not re.sub(r"\x1b\[[0-9;:]*m", "", lines[-1]).strip():
        lines.pop()
    width, height = COLUMNS * WIDTH + 32, len(lines) * HEIGHT + 62
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" role="img" aria-label="{html.escape(title)}">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{width:.0f}" height="{height}" rx="10" fill="{BACKGROUND}" stroke="#334155"/>',
        '<g fill="#475569"><circle cx="20" cy="18" r="5"/><circle cx="38" cy="18" r="5"/>'
        '<circle cx="56" cy="18" r="5"/></g>',
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{SIZE}" '
        f'fill="{FOREGROUND}" xml:space="preserve">',
    ]
    style = Style()
    for row, line in enumerate(lines):
        top = 38 + row * HEIGHT
        letters = cells(line, style)
        at = 0
        while at < len(letters):
            until = at
            while until < len(letters) and letters[until][1] == letters[at][1]:
                until += 1
            text = "".join(letter for letter, _ in letters[at:until])
            ink, paper, bold, dim, reverse, underline = letters[at][1]
            if reverse:
                ink, paper = paper or BACKGROUND, ink or FOREGROUND
            left = 16 + at * WIDTH
            if paper:
                out.append(
                    f'<rect x="{left:.1f}" y="{top}" width="{len(text) * WIDTH:.1f}" '
                    f'height="{HEIGHT}" fill="{paper}"/>'
                )
            if text.strip():
                more = f' fill="{ink}"' if ink else ""
                more += ' font-weight="bold"' if bold else ""
                more += ' opacity="0.65"' if dim else ""
                more += ' text-decoration="underline"' if underline else ""
                out.append(
                    f'<text x="{left:.1f}" y="{top + 14}" textLength="{len(text) * WIDTH:.1f}" '
                    f'lengthAdjust="spacingAndGlyphs"{more}>{html.escape(text)}</text>'
                )
            at = until
    return "\n".join(out + ["</g>", "</svg>"]) + "\n"


def main():
    programs = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/release").resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ready = folder / "ready"
        environment = {
            "PATH": "/usr/bin:/bin",
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": "0",
            "ADMIN_PORT": "0",
            "LOG_DIR": str(folder / "logs"),
            "READY_FILE": str(ready),
            "SHARDS": "1",
        }
        quiet = subprocess.DEVNULL
        engine = subprocess.Popen(
            [programs / "logboom-engine"], env=environment, stdout=quiet, stderr=quiet
        )
        tmux = ["tmux", "-S", str(folder / "tmux")]
        run = lambda *words: subprocess.run(  # noqa: E731
            [*tmux, *words], check=True, capture_output=True, text=True
        ).stdout
        try:
            while not ready.exists():
                assert engine.poll() is None, "the engine does not start"
                time.sleep(0.05)
            port = json.loads(ready.read_text())["port"]
            load = (
                f"{programs}/logboom-loadgen --target tcp://127.0.0.1:{port} -c 8 --run-id live "
                f"--stages 6s:20k,8s@20k,4s:60k,6s@60k,3s:5k --shards 1 "
                f"--state-dir {folder} --slo 'p99<50ms'"
            )
            size = ["-x", str(COLUMNS), "-y", str(ROWS)]
            shell = f"clear; {load}; sleep 3600"
            run("new-session", "-d", *size, "env", "TERM=screen-256color", "sh", "-c", shell)
            time.sleep(21)
            (HERE / "live.svg").write_text(
                svg(run("capture-pane", "-e", "-p"), "The live view of a run that rises in stages")
            )
            end = time.time() + 60
            while "response" not in run("capture-pane", "-p") or "PASS" not in run(
                "capture-pane", "-p", "-S", "-100"
            ):
                if time.time() > end:
                    break
                time.sleep(0.5)
            time.sleep(1)
            (HERE / "summary.svg").write_text(
                svg(run("capture-pane", "-e", "-p"), "The summary at the end of the same run")
            )
        finally:
            subprocess.run([*tmux, "kill-server"], capture_output=True, check=False)
            engine.terminate()
            engine.wait()


main()
