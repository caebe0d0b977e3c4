"""The asyncio shell around the node core: turns time, disk, network and containers into inputs, and carries out
effects.
"""
