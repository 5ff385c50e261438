"""
Programs made of the pipeline: one module a job, and the command line on top.

    cli          the `overnight` command: words in, exit code out
    folder       `overnight run`: every recording under some folders gets its transcript
    doctor       `overnight doctor`: what is in place, what is not
    session      what every job works with: state folder, ledger, service

Beside them lie the recordings of `overnight run --sample`.
"""
