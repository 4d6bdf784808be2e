"""Text prototypes are means of unit embeddings, renormalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vpl_plugin.clip import CLIP_ES, ENSEMBLE, SINGLE, VOC, text_prototypes


def test_prototypes_follow_a_literal_loop(mini):
    names = ["cat", ("sofa", "couch", "settee"), "person with clothes,people,human"]
    rows = []
    for name in names:
        synonyms = [name] if isinstance(name, str) else name
        embeddings = [
            mini.encode_text([template.format(synonym)])[0].double()
            for synonym in synonyms
            for template in ENSEMBLE
        ]
        mean = sum(embeddings) / len(embeddings)
        rows.append(mean / mean.norm())
    expected = torch.stack(rows).float()
    torch.testing.assert_close(text_prototypes(mini, names, ENSEMBLE), expected)


def test_a_synonym_in_the_string_is_another_prompt_than_a_synonym_in_a_list(mini):
    in_string, in_list = text_prototypes(mini, ["sofa,couch", ("sofa", "couch")], SINGLE)
    assert in_string @ in_list < 0.9999


def test_the_default_template_is_that_of_clip_es(mini):
    assert CLIP_ES == ("a clean origami {}.",)
    expected = mini.encode_text(["a clean origami cat."])
    torch.testing.assert_close(text_prototypes(mini, ["cat"]), expected)


def test_braces_elsewhere_do_no_harm(mini):
    expected = mini.encode_text(["a {small} cat {0}"])
    torch.testing.assert_close(text_prototypes(mini, ["cat"], ["a {small} {} {0}"]), expected)


@pytest.mark.shared
def test_prototypes_match_upstream_clip_es(mini, shared_dir):
    golden = np.load(shared_dir / "golden/clip_es.npz", allow_pickle=False)
    for names, rows in ((VOC.prompts, golden["text/fg"]), (VOC.background, golden["text/bg"])):
        ours = text_prototypes(mini, names).numpy()
        assert np.abs(ours - rows).max() < 1e-5


@pytest.mark.parametrize(
    ("names", "templates", "error", "message"),
    [
        ([], SINGLE, ValueError, "at least one class"),
        ("cat", SINGLE, TypeError, "the one string 'cat'"),
        (["cat", " "], SINGLE, ValueError, r"names\[1\] must be text that is not blank"),
        (["cat", ()], SINGLE, ValueError, r"names\[1\] has no synonym"),
        (["cat", (3,)], SINGLE, ValueError, r"names\[1\] must be text .* got 3"),
        (["cat"], [], ValueError, "at least one text"),
        (["cat"], "a photo of a {}.", TypeError, "the one string 'a photo of a {}.'"),
        (["cat"], ["a photo."], ValueError, "template 'a photo.' has no {}"),
    ],
)
def test_bad_names_and_templates_are_refused(mini, names, templates, error, message):
    with pytest.raises(error, match=message):
        text_prototypes(mini, names, templates)
