"""The HTTP API: the same application on HTTPS and on the local socket, over a `NodePort`.

app = build_app(port, stats=stats, log=api_log.write)
server = await ApiServer.start(app, host="0.0.0.0", port=9999, tls=context, socket_path=run_dir / "agent.sock")
await server.close()
"""

import agent.lean_aiohttp  # noqa: F401 before any module that imports aiohttp itself
