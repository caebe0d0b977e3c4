"""The `agent` command: one module per group of commands, loaded when it is used.

`agent.cli.main` holds the table; nothing heavy is imported there, so that `agent --help` is there at once.
"""
