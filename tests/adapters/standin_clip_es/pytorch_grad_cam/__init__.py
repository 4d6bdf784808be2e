import torch


class GradCAM:
    def __init__(self, model, target_layers, reshape_transform):
        self.model = model
        self.reshape_transform = reshape_transform
        target_layers[0].register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.activations = output

    def __call__(self, input_tensor, targets):
        tokens, texts, height, width = input_tensor
        probabilities, attention = self.model.forward_last_layer(tokens, texts)
        (gradients,) = torch.autograd.grad(targets[0](probabilities[0]), self.activations)
        activations, gradients = (
            self.reshape_transform(value.detach(), height // 16, width // 16)
            for value in (self.activations, gradients)
        )
        # Not kept: tensors of a graph do not travel to other processes.
        del self.activations
        cam = (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1).relu()
        cam = cam - cam.min()
        return (cam / (cam.max() + 1e-7)).cpu().numpy(), probabilities, attention
