"""python -m sip_gateway.fleet.capacity: how many conversations one worker holds.

PJSIP tells its limit only when it has been initialised, which a process does once. So the
supervisor asks a process of its own, and keeps PJSIP out of itself.
"""

from __future__ import annotations

import asyncio
import sys

from services.common.errors import LandlineError

_ANSWER_S = 20.0


async def conversations_per_worker() -> int:
    """One less than PJSIP's calls: the last place refuses politely or carries a second leg."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sip_gateway.fleet.capacity"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_ANSWER_S):
            output, errors = await process.communicate()
        return int(output.split()[-1])
    except (TimeoutError, ValueError, IndexError):
        if process.returncode is None:
            process.kill()
            await process.wait()
            raise LandlineError("PJSIP did not say how many calls it holds") from None
        reason = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise LandlineError(f"PJSIP did not say how many calls it holds: {reason}") from None


def main() -> None:
    """Print the number of conversations."""
    import pjsua2 as pj

    from sip_gateway.endpoint_setup import MORE_LEGS_THAN_FIT
    from sip_gateway.sip.log import pjsip_library

    pjsip_library().pj_log_set_level(0)
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.uaConfig.maxCalls = MORE_LEGS_THAN_FIT
    config.uaConfig.threadCnt = 0
    config.logConfig.level = config.logConfig.consoleLevel = 0
    endpoint.libInit(config)
    print(int(pjsip_library().pjsua_call_get_max_count()) - 1, flush=True)
    endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)


if __name__ == "__main__":
    main()
