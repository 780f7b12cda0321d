"""Routers and schemas of the HTTP interface; the work itself is done in other rooms."""
