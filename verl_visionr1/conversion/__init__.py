"""From a data set to rows: `visionr1 convert`.

A converter reads one family of data sets and makes `Item`s: one question about one image, with the ground truth in the
frame of the annotations. It raises `RowsError` for a source or option that cannot be used, and `RowError` for one
entry, which `--on-error skip` leaves out. All else is here, once:

    source file --read (`sources`)--> Items --`selection`--> Items --`rows_of` (`items`)--> Rows --`writing`--> parquet

* `flags`       the options that every converter has;
* `ledger`      what was skipped, left out or changed: nothing is lost without a line;
* `sources`     json, jsonl, csv, xml, pickles, mat and parquet files, read with errors that name file and place;
* `image_files` images by their names, and data sets that are folders of small files;
* `pickled_numpy` numpy's arrays in pickles, read without numpy's own unpickling;
* `identity`    which image it is, whatever the data set calls it; exclusion lists against leakage;
* `items`       `Item` -> `Row`: image prepared, boxes brought into its frame and cleaned, prompt made;
* `vocabulary`  boxes of a fixed list of categories (COCO, VOC, ...) as columns; `planning` asks questions of them;
* `coco_json`   the json layout that many data sets share;
* `yolo_yaml`   data.yaml of YOLO;
* `referring`   the layout of RefCOCO and its relatives;
* `values`      numbers, points, sizes, counts and texts of an entry, checked;
* `counts`      what data sets of counting and pointing share;
* `records`     anybody's json, csv and parquet as items (a package);
* `conventions` in which coordinates numbers are written, guessed with the evidence;
* `point_units` the same of points; `item_boxes` asks both of items, and what questions say of it;
* `selection`   exclusion, `--max-instances`, `--negatives`, `--limit`;
* `tokens`      how many tokens a row will cost, by model family;
* `writing`     rows -> parquet, and the report;
* `converter`   the declaration of a converter; `datasets`: all of them; `catalog`: their names;
* `command`     the command line around a converter;
* `exclusion`   lists of test images; `scenes`: drawn data with known boxes.
"""
