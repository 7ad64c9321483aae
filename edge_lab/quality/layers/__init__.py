"""At which layer does a program begin to differ from its model: `find` asks the reader of each format."""
