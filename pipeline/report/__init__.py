"""
What a run came to and what stands in the ledger, for people and for programs. Reads only.

    standing    ledger -> how many recordings are in which state, and what became of each
    templates   facts -> a page of HTML that needs nothing else
    words       numbers, times and names -> what people read

A page is a template beside these modules that extends base.html: its look is there.
"""

from pipeline.report.standing import list_lines, status_json, status_text

__all__ = ["list_lines", "status_json", "status_text"]
