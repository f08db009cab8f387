"""The verbs: each joins rooms of the house into one call that the library and the command line share.

One wing a verb. A wing imports only from wings that stand below it:

    tune → convert → verify → export → subject
    tune → bench → subject          look → subject          deploy → convert          serve → subject
"""
