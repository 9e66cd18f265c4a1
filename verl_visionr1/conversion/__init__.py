"""From a data set to rows: `visionr1 convert`.

A converter (`datasets`, declared by `converter`) reads one family of data sets and makes `Item`s: one question about
one image, with the ground truth in the frame of the annotations. It raises `RowsError` for a bad source or option, and
`RowError` for one bad entry, which `--on-error skip` leaves out (`ledger`). The other modules do the rest:

    source file --read (`sources`)--> Items --`selection`--> Items --`row_of` (`items`)--> Rows --`writing`--> parquet
"""
