// What was wrong with a field goes when the field is changed: its line is emptied.
() => ""
