"""The pages of the book that are made from the package, the chapters and book.yml."""
