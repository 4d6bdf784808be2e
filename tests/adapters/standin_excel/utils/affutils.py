import torch


def refine_cams_with_aff(attr_map, cls_label, size):
    grid = [side // 16 for side in size]
    classes = torch.where(cls_label)[0]
    return [attr_map[:, label].reshape(grid) for label in classes], classes.cpu()
