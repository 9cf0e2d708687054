# Sizes at which two CPU cores train the DETR family on 128-pixel images in minutes.
from ...quickstart.models import WIDTHS, resnet


def small(model, *, in_features, dim=128, layers=3, queries=None):
    """A detector with the quickstart's ResNet (1.1 M parameters, from scratch) and few layers."""
    model.backbone = resnet(in_features)
    model.neck.in_channels = [WIDTHS[int(name[-1]) - 2] for name in in_features]
    model.encoder.update(dim=dim, heads=4, num_layers=layers, ffn_dim=2 * dim, dropout=0.0)
    model.decoder.num_layers = layers
    if queries is not None:
        part = model.proposals if "proposals" in model else model.query_source
        part["num_proposals" if "proposals" in model else "num_queries"] = queries
    return model
