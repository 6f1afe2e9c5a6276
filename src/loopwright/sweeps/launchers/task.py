"""The script that a cluster runs for each task of a submission: it starts the process, passes signals on, notes the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from loopwright import beside
from loopwright.sweeps.launcher import INTERRUPTED, JOB_VARIABLE
from loopwright.sweeps.launchers.submission import Submission

_SCRIPT = """\
#!/bin/bash
{head}
# Runs one line of `commands` and notes its exit code in exit/<index>.
submission={submission}
index={index}
{exports}
cd -- {here}
{redirect}
note() {{  # as a whole or not at all
    printf '%s\\n' "$1" >"$submission/exit/.$index" && mv -f "$submission/exit/.$index" "$submission/exit/$index"
}}

again() {{  # put this task back into the queue
{again}
}}

rm -f "$submission/exit/$index"  # of a start before this one
if [ -e "$submission/stopped/$index" ]; then
    note {interrupted}
    exit 0
fi
asked=
trap 'asked=yes' USR1 TERM
eval "command=($(sed -n "$((index + 1))p" "$submission/commands"))"
# USR1 is ignored until the training listens to it, lest it die of the request while it starts.
(trap '' USR1; exec "${{command[@]}}") &
child=$!
wait "$child"
code=$?
if [ -n "$asked" ]; then
    # The scheduler may have sent the process the same TERM, and twice would end it at once; USR1 may come often.
    sleep 1
    while kill -USR1 "$child" 2>/dev/null; do sleep 1; done
    wait "$child" 2>/dev/null
    last=$?
    [ "$last" -eq 127 ] || code=$last
fi
if [ "$code" -eq {interrupted} ] && [ ! -e "$submission/stopped/$index" ]; then
    again
fi
note "$code"
exit {status}
"""


def script(
    submission: Submission,
    *,
    head: str,
    index: str,
    label: str,
    again: str,
    status: str = '"$code"',
    own_output: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The script of a submission.

    `head` are the scheduler's own lines, `index` and `label` what the shell takes the index of the task and its name from,
    `again` the lines that put the task back into the queue and do not return where that is done, `status` what the script
    exits with. `own_output` is true where the script writes to the log of the job itself.
    """
    given = os.environ if environment is None else environment
    exported = {name: value for name, value in given.items() if name.startswith("LOOPWRIGHT_") and name != JOB_VARIABLE}
    exported["PYTHONPATH"] = beside.environment()["PYTHONPATH"]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(exported.items())]
    return _SCRIPT.format(
        head=head,
        submission=shlex.quote(str(submission.path)),
        index=index,
        exports="\n".join([*lines, f"export {JOB_VARIABLE}={label}"]),
        here=shlex.quote(str(Path.cwd())),
        redirect='exec >>"$submission/logs/$index" 2>&1' if own_output else "",
        again="\n".join(f"    {line}" for line in again.splitlines()),
        interrupted=INTERRUPTED,
        status=status,
    )
