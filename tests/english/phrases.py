"""The phrases that are refused, and the files that may still have them."""

# Files that are not rewritten yet, as globs for `PurePath.match`, which matches from the right. Remove an entry when
# its files are clean; `python -m tests.english --all` lists the phrases of all files.
NOT_YET = ("Makefile", "pyproject.toml", "compose.yaml", "deploy/*")

# Regular expressions; a space is any white space within a paragraph.
PHRASES = {
    "anew": "again; or the result: 'restarts at zero'",
    "(?:no|some)body": "the noun: no client, an operator, an anonymous client",
    "whom|whoever|whomever": "the noun: the client, the caller, the user",
    r"(?-i:Who)(?= )(?![^\n]*\?)": "a noun as the subject: 'A client that ...'",
    "who (?:it|he|she|they) (?:is|are)|(?:is|are) the ones? who": "the user, the identity; 'only operators can ...'",
    "told|hears?|heard": "notified, reported, received",
    "(?:is|are|was|were) said": "is documented, is sent, is logged",
    "(?:has|have|having) (?:a|its|their) say": "decides, is consulted",
    "let(?:s|ting)? in": "accept, admit, allow",
    "becom(?:es?|ing) of": "happens to; or the result",
    "c(?:omes?|ame|oming) back": "reconnects, returns, is restored",
    "(?:go|goes|went|gone|going) on": "continues",
    "what (?:is|was|are|were) (?:kept|left|lost|miss(?:ed|ing)|more|newe?r?|so|there|told|too)": "the noun: entries",
    "what (?:has happened|comes|came|goes|went|ends|ended|waits|waited|follows|stands)": "the noun: frames, events",
    "how it is": "the state",
    "in vain": "without success; or the failure",
    "(?:no |a )?faults? of (?:ours|theirs|its own)": "an internal error",
    "(?:stands?|stood) (?:there|beneath|behind|above)|as (?:it|they) stands?": "is listed, follows; unchanged",
    "all the same": "anyway, still",
    "as good as": "equivalent to",
    "in the place of": "instead of",
    "(?:good|bad) tokens?|(?:is|are) not good": "valid, invalid, accepted, rejected",
    "(?:that|which|it) (?:is|are) (?:no|none)": "is not a ...",
    "nothing but": "only",
    "so many [a-z]+ at most": "the limit: 'at most N requests'",
    "could not be, inside|alone has|decide alone|ends, once": "short sentences: the subject first, one idea in each",
}
