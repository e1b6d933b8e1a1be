"""The settings: fields, hints for misspelled ones, and the options built from them. The only import of pydantic."""
