"""``homeward profile``: what the profile sets, and where settings are laxer."""

from __future__ import annotations

import typer
from rich.text import Text

from service import profiles
from service.cli.console import (
    AsJson,
    DataDir,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
)

app = typer.Typer(help="What is set by default for a place and its law.", no_args_is_help=True)


@app.command("show")
@expected_errors
def show(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """The profile in use, its settings, their sources, and which of them are laxer here."""
    settings = settings_for(context, data_dir)
    found = profiles.states(settings.profile, settings.model_dump())
    if as_json:
        print_json(
            {
                "profile": settings.profile,
                "settings": [
                    {
                        "setting": one.rule.setting,
                        "value": one.value,
                        "profile_value": one.wanted,
                        "laxer": one.laxer,
                        "source": one.rule.source,
                    }
                    for one in found
                ],
                "fixed": [
                    {"what": one.what, "value": one.value, "source": one.source}
                    for one in profiles.FIXED
                ],
            }
        )
        return
    out.print(Text(f"Profile: {settings.profile}"))
    rows = [("setting", "value", "profile", "", "source")]
    rows += [
        (
            one.rule.setting,
            str(one.value),
            str(one.wanted),
            "laxer" if one.laxer else "",
            one.rule.source,
        )
        for one in found
    ]
    rows += [(one.what, one.value, "always", "", one.source) for one in profiles.FIXED]
    out.print(Text(columns(rows)))
