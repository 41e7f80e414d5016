"""A push provider of our own, for benches and tests: it speaks FCM, APNs and Web Push over TLS and HTTP/2.

It refuses what the true ones refuse, with their documented bodies: wrong signatures, tokens, headers, payloads that are
too long. It decrypts Web Push, journals whatever it receives, answers after 30 ms, and can be told to misbehave.
`launch.Provider` starts it in a process of its own.
"""
