// Of a study's form, only what belongs to the chosen source is shown.
(source) => ["results", "zip", "benchmark"].map((name) => ({ __type__: "update", visible: source === name }))
