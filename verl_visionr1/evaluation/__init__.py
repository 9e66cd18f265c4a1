"""The numbers people publish, and the answers they are computed from.

`predictions` is what a model answered, kept in a file; `generation/` makes that file with vLLM (the only part that
knows vLLM); everything else reads it, so that metrics are recomputed without generating again:

* `settings`, `evaluating.evaluate`: predictions -> `records.Evaluation`; `markdown.markdown`, `records.save`, `load`;
* `reading` and `confidence`: an answer by the reward's own road, and how sure the model was of each box;
* `detections`, `ranking`, `average_precision`: COCO's numbers, and their resamples;
* `rows`: numbers of single answers, each docstring with formula and source;
* `bootstrap`, `correlation`, `comparison`: intervals, reward against metric, one model against another.
"""
