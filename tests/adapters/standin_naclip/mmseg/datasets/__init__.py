from pathlib import Path


class BaseSegDataset:
    def __init__(self, root, names):
        self.root, self.names = root, names
        self.items = self.load_data_list()

    def load_data_list(self):
        names = Path(self.names).read_text().split()
        return [{"img_path": f"{self.root}/{name}.jpg"} for name in names]
