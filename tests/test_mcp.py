"""The studio as a server of tools: a real client of the Model Context Protocol asks for a frame."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def use(address: str, token: str) -> dict[str, Any]:
    """The tools' names, and the job of a frame that was asked for and waited for."""
    async with (
        httpx.AsyncClient(headers={"X-Token": token}) as client,
        streamable_http_client(address, http_client=client) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        names = {tool.name: tool.description for tool in (await session.list_tools()).tools}

        async def call(tool: str, **arguments: Any) -> Any:
            (name,) = [name for name in names if name.endswith(tool)]
            said: Any = (await session.call_tool(name, arguments)).content[0]
            return ast.literal_eval(said.text)  # Gradio gives Python's words

        asked = {"prompt": "a red ball", "look_seed": 1, "motion_seed": 2, "kind": "frame"}
        job = await call("submit", **asked)
        deadline = time.monotonic() + 120
        while job["state"] != "done" and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            job = await call("status", job=job["id"])
        return {"names": names, "job": job}


def test_a_client_asks_for_a_frame(mini_pack: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studio.cli.main", "ui", "--mcp", "--no-browser"]
    env = os.environ | {"NEODRAGON_DATA": str(tmp_path), "NEODRAGON_PACK": str(mini_pack)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("MCP: "))
            found = re.fullmatch(r"MCP: (\S+) with the header X-Token: (\S+)\n", line)
            assert found is not None, line
            told = asyncio.run(use(*found.groups()))
            assert httpx.post(found[1], json={}).status_code == 401
        finally:
            process.terminate()
    assert len(told["names"]) == 3, told["names"]
    assert Path(told["job"]["file"]).is_file()
