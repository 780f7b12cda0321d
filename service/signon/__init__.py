"""Signing in with an OpenID Connect provider: the one place that talks to it. No HTTP framework.

Authorization code flow with PKCE (RFC 7636), ``state`` and ``nonce``, after OpenID Connect Core 1.0
and the OAuth 2.0 security practice (RFC 9700).
"""
