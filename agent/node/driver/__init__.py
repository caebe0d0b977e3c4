"""The asyncio shell around the node core: time, disk, network and containers become inputs; effects become deeds."""
