"""A merged model in one file, at full size, as ComfyUI's own loaders see it. Opt-in, as test_server.py."""


def test_comfyui_knows_the_file_and_every_tensor_in_it(in_comfy):
    found = in_comfy("checkpoint")
    assert (found["kind"], found["predicts"]) == ("SD20", "EPS")
    assert found["unet"] == found["vae"] == []
    # What is in no file of Stable Diffusion 2.1-base that this project reads, and ComfyUI does without.
    assert set(found["text"]) <= {
        "clip_h.logit_scale",
        "clip_h.text_projection",
        "clip_h.transformer.text_projection.weight",
    }
