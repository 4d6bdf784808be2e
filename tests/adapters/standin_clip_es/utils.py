import re


def read_annotation(path):
    with open(path) as file:
        text = file.read()
    height, width = (int(re.search(f"<{side}>(.*?)<", text)[1]) for side in ("height", "width"))
    return height, width, re.findall("<name>(.*?)<", text)
