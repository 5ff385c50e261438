"""
The commands: in, words of a command line that cyclopts has read; out, an exit code.

    run          `overnight run`
    nightly      `overnight nightly`
    timer        `overnight nightly install`, `uninstall`, `status`
    reprocess    `overnight reprocess`
    archive      what of it costs nothing
    look         `overnight status`, `overnight list`
    report       `overnight report`
    check        `overnight verify`, `overnight audit`
    engine       `overnight engine`
    setup        `overnight doctor`, `overnight init`

A command imports what it works with when it runs, so that `--help` is there at once.
"""
