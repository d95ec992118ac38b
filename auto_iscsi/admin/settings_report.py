"""List the settings, and show those of one SAN: two parts of `auto-iscsi explain`."""

from __future__ import annotations

from typing import Any

from auto_iscsi import wording
from auto_iscsi.admin import output
from auto_iscsi.config import config_files, san_files, schema
from auto_iscsi.machine.host import Host


def list_settings(paint: output.Paint) -> output.Report:
    """Return all settings, each with its default, its values and its meaning."""
    header = ("setting", "default", "values", "meaning")
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    for table in (schema.TABLE, san_files.TABLE):
        rows = [
            (name, setting.as_written(setting.default) or "-", setting.values, setting.help)
            for name, setting in table.items()
        ]
        lines += ["", paint.dim(f"In {san_files.FOLDER}/NAME.conf:")] if lines else []
        lines += output.table(header, rows, paint)
        data.append(
            {
                name: {
                    "default": setting.as_written(setting.default),
                    "values": setting.values,
                    "help": setting.help,
                    "example": setting.example,
                }
                for name, setting in table.items()
            }
        )
    return output.Report(0, lines, {**data[0], san_files.FOLDER: data[1]})


def report_san(host: Host, name: str, paint: output.Paint) -> output.Report:
    """Return the settings of a SAN, and the line that sets each; status 1 if it cannot be used."""
    path = san_files.path_of(name)
    san, problems = san_files.read(host, path)
    sections = config_files.read(host, path)[0]
    lines_of = {n: line for section in sections for n, line in section.lines.items()}
    lines = [name, ""]
    if san:
        shown = {n: s.as_written(getattr(san, n)) for n, s in san_files.TABLE.items()}
        shown.update(san.options)
        rows = [
            (n, f"= {value}", f"{path}:{lines_of[n]}" if n in lines_of else "built in")
            for n, value in shown.items()
        ]
        lines += output.columns(rows, "  ")
    data = {"san": name, "settings": san and san._asdict(), "problems": [str(p) for p in problems]}
    lines += [paint.error(wording.printable(str(problem))) for problem in problems]
    return output.Report(1 if problems else 0, lines, data)
