import json
import anyio, pytest
from tests.jobs.test_run_command import *  # noqa
from tests.jobs.test_run_command import fill
pytestmark = pytest.mark.anyio
async def test_zz(archive):
    fill(archive)
    archive.service.faults.add(Fault(on="submit", action="hold", times=None, skip=2))
    async with archive.started(*archive.run_line("--uploads", "2")) as process:
        await archive.service.held("submit")
        process.kill(); await process.wait()
    archive.service.faults.clear(); archive.service.release()
    for r in await archive.rows("select path,state,claim from recordings"): print(r)
    for r in await archive.rows("select * from attempts"): print(r[0],r[1],r[5:8], r[10:13])
    ended = await archive.command(*archive.run_line("--json"))
    for l in ended.lines: print(l['time'][17:24], l['type'], l.get('recording'), l.get('message',''))
    t0=archive.service.log[0].at
    for c in archive.service.log: print(round(c.at-t0,2), c.kind, c.transcript_id[:4], c.status)
