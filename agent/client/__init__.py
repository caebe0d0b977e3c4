"""The HTTPS client of a cluster: any member answers, the cluster's own trust anchor vouches for it.

async with home_client(home) as client:             # or socket_client(path) on a host, for reads
    status = await client.status()
    result = await client.submit("restart", "stack:shop", Services())
    async for event in client.events(follow=True): ...
"""

from agent.client.client import Client, home_client, socket_client
from agent.client.clock import ClusterClock
from agent.client.endpoints import Endpoint, parse_address
from agent.client.transport import HttpsTransport, SocketTransport, Transport

__all__ = [
    "Client",
    "ClusterClock",
    "Endpoint",
    "HttpsTransport",
    "SocketTransport",
    "Transport",
    "home_client",
    "parse_address",
    "socket_client",
]
