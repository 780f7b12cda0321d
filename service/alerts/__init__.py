"""Alerts on their way out: lists, streams, webhooks, e-mail. Knows no HTTP framework."""
