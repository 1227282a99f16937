"""The wire contract of tunefarm: messages, errors, bundles, channels."""
