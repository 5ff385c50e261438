"""
Transcribe folders of recordings through the AssemblyAI API: pay once, lose nothing.

    folders ─► scan ─► ledger ─► feed ─► upload ─► submit ─► poll ─► write ─► results
                         ▲                                             │
                         └─── what is due again is a row, no message ──┘

Modules in the order in which they are best read. Each imports only from those below it; the
contracts in pyproject.toml hold that.

    batch        the stages wired top to bottom in one task group: a whole run on one screen
    foresight    what a run would ask for and what it would leave, with nothing sent
    promote      which of two results of a recording stays
    guard        what ends a run from outside: the clock on the wall, the room on the disks
    stages       scan, feed, upload, submit, poll, write: one coroutine a step
    webhooks     notifications of the service, taken over HTTP: hints to look
    reconcile    what became of requests whose answer was lost
    redaction    redacted audio, which goes where its result goes
    report       what a run came to and what stands in the ledger, for people and programs
    terminal     the live block on a terminal
    progress     who else listens while a run goes on: log, pipe, file
    compare      two answers of one recording: what differs, word by word; pure
    derive       the files made of saved results, in processes of their own
    outages      whether the service can be reached, and how it is waited for
    client       the service over HTTP: one method a call, one request a method
    ledger       durable state and queue: SQLite, one writer thread, group commit
    render       a saved answer as txt, srt, vtt, md, tsv; pure
    captions     what stands on the screen when; pure
    quality      how far a transcript can be trusted; pure
    heard        how long what was sent certainly is
    phrases      where words may be parted; pure
    spool        an answer on its way to disk: as it came, whole, durable
    overdue      what the service does not finish, and is waited for no longer; pure
    schedule     what to ask next of all that is pending; pure
    wire         what is in the messages; no I/O
    limiter      the request budget, and one pause for all
    uplink       how many uploads at once, and how fast
    retry        whether, when and how often a call is made again
    notices      what somebody says has finished: hints, never facts
    intake       how much may be under way, and whether more is taken in
    allowance    what may still be asked for: hours and cost, reserved and settled
    breaker      whose fault refusals are: the recordings', or that of all; pure
    durations    how long a recording is, with nothing decoded
    exclusions   what a scan leaves out, and counts
    losses       which folders have lost their recordings; pure
    places       how many transcripts at the service are worth having
    files        files that are whole or absent
    settings     every setting: unit, default, reason, and where its value comes from
    logs         where log lines go
    lines        lines of text to a stream, from a thread, without secrets
    options      what may be asked of the service, checked before it is sent
    speech_models  the service's models by name: price and state, on one day; pure
    events       what happened, as facts
    models       the things that flow, and the states that they are in
    parsing      the JSON of others: what of it is of use, and what is odd about it; pure
    names        what files in the output folder are called
    addresses    which spellings of a provider or an upload are the same; pure
    destinations  where an address of the internet leads
    threads      blocking calls beside the event loop
    errors       the error tree by consequence, and the exit codes
    engine       apart: a server with a speech model that speaks the service's protocol

docs/design.md says why it is so, docs/output.md what other programs may rely on.
"""

__version__ = "0.1.0"
