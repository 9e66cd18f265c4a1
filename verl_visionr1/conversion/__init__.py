"""From a data set to rows: `visionr1 convert`.

A converter reads one family of data sets and makes `Item`s: one question about one image, with the ground truth in the
frame of the annotations. It raises `RowsError` for a bad source or option, and `RowError` for one bad entry, which
`--on-error skip` leaves out. The modules here do the rest:

    source file --read (`sources`)--> Items --`selection`--> Items --`rows_of` (`items`)--> Rows --`writing`--> parquet

* `flags`       the options that every converter has;
* `ledger`      the conversion report: what was skipped, left out or changed;
* `sources`     json, jsonl, csv, xml, pickles, mat and parquet files, read with errors that name file and place;
* `image_files` image files by name, and data sets that are folders of small files;
* `pickled_numpy` numpy's arrays in pickles, read without numpy's own unpickling;
* `identity`    one identity per image across data sets; exclusion lists against leakage;
* `items`       `Item` -> `Row`: image prepared, boxes brought into its frame and cleaned, prompt made;
* `vocabulary`  boxes of a fixed list of categories (COCO, VOC, ...) as columns; `planning` makes questions of them;
* `coco_json`   the json layout that many data sets share;
* `yolo_yaml`   YOLO's data.yaml;
* `referring`   the layout of RefCOCO and related data sets;
* `values`      checks numbers, points, sizes, counts and texts of an entry;
* `counts`      shared by data sets of counting and pointing;
* `records`     json, csv and parquet of any layout as items (a package);
* `conventions` guesses the coordinate convention of boxes, with the evidence;
* `point_units` guesses the unit of points; `item_boxes` applies both to items and their questions;
* `selection`   exclusion, `--max-instances`, `--negatives`, `--limit`;
* `tokens`      estimates the tokens of a row, by model family;
* `writing`     rows -> parquet, and the report;
* `converter`   the declaration of a converter; `datasets`: all of them; `catalog`: their names;
* `command`     the command line around a converter;
* `exclusion`   lists of test images; `scenes`: drawn data with known boxes.
"""
