"""What kernels print, made fit to be shown: whatever they wrote, it is lines of plain text."""

TAIL_BYTES = 4096


def plain_tail(data: bytes) -> str:
    """The last of it, at most 4 KiB of UTF-8: printable characters, and newlines between lines."""
    text = data[-TAIL_BYTES:].decode(errors="replace")
    lines = (
        "".join(one if one.isprintable() else " " for one in line).rstrip()
        for line in text.splitlines()
    )
    whole = "\n".join(lines).strip("\n").encode()
    return whole[-TAIL_BYTES:].decode(errors="ignore").strip("\n")
