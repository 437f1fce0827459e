"""What the tests share: fixtures' data, stand-ins, and how commands and libraries are run."""
