"""The ground floor: words, errors, files, settings and devices that every other package uses."""
