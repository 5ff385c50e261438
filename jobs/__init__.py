"""
Programs made of the pipeline: one module a job, and the command line on top.

    start        where the command begins
    cli          the `overnight` command: words in, exit code out
    commands     what can be typed: one function a command
    flags        the flags that commands take, and the settings they come to
    console      what a command says: stdout, stderr, terminal, log
    leaving      how a process ends in time, whatever hangs
    transcribe   what run, nightly and reprocess have in common
    folder       `overnight run`: every recording under some folders gets its transcript
    nightly      `overnight nightly`: the same every night, with nobody there
    reprocess    `overnight reprocess`: what was transcribed before, once more
    planning     what a reprocess would do, and what it would come to
    verify       `overnight verify`: is everything that was paid for on disk, as it was saved
    audit        `overnight audit`: what was asked for, what it came to, and what nobody uses
    rebuild      `overnight verify --rebuild`: a lost ledger from all that is left of it
    unclaimed    what a rebuild finds at the account that nobody here knows
    adopt        `overnight reprocess --adopt`: what other tools transcribed is not paid for again
    render       `overnight reprocess --render`: derived files of all results, made anew
    timer        `overnight nightly install`: files that have a scheduler start it
    units        what is in those files
    doctor       `overnight doctor`: what is in place, what is not
    readiness    whether a night that begins now could work
    reach        whether those whom a run tells could be told
    checks       what was looked at before a run, and what it would end with
    budget       one request budget for each account, whoever works for it
    account      the whole list of an account, a page at a time
    documents    the service's answers in what other tools left
    matching     which document is of which recording
    finding      what a job that looks has found
    shelf        what lies in the folder of the results
    telling      a run that others hear of: when they are told, and of what
    notify       hooks and heartbeat: whom a run tells of its start and end
    verdict      why a run ends with the exit code that it does
    session      what every job works with: state folder, ledger, service

Beside them lie the recordings of `overnight run --sample`.
"""
