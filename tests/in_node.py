"""Runs the page's modules that need no page, under Node."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from browser import ROOT


def in_node(program: str, **values: Any) -> Any:
    """What a JavaScript program returns. It has the values as variables, and `web(name)` imports a
    module of web/."""
    names = ", ".join(values)
    script = f"""
      const web = (name) => import(`{(ROOT / "web").as_uri()}/${{name}}`);
      const run = async ({{ {names} }}) => {{ {program} }};
      const values = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
      run(values).then((answer) => process.stdout.write(JSON.stringify(answer ?? null)));
    """
    done = subprocess.run(
        ["node", "-e", script],
        input=json.dumps(values),
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
