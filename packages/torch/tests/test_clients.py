"""Training loops that others wrote, with our optimizers in them: `nox -s clients` installs what they need."""

from __future__ import annotations

import pytest
import torch

from isostep_torch import load_optimizer

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, about themselves

REASON = "of the nox session `clients`"


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def data(count=24):
    torch.manual_seed(1)
    x = torch.randn(count, 4)
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))


def by_hand(optimizer_of, schedule_of, epochs, accumulate=1):
    """The same loop without anybody's help."""
    net = model()
    optimizer = optimizer_of(net)
    schedule = schedule_of(optimizer)
    for _ in range(epochs):
        loader = torch.utils.data.DataLoader(data(), batch_size=4)
        for k, (x, y) in enumerate(loader):
            (torch.nn.functional.mse_loss(net(x), y) / accumulate).backward()
            if (k + 1) % accumulate == 0:
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return net


def adamw(net):
    return load_optimizer("adamw")(net.parameters(), lr=0.01, betas=(0.8, 0.95))


def addsign(net):
    return load_optimizer("addsign")(net.parameters(), lr=0.01)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)


@pytest.mark.parametrize("made", [adamw, addsign], ids=lambda f: f.__name__)
def test_accelerate(made, tmp_path):
    """Accumulated gradients, clipping, a schedule, a checkpoint saved and loaded in mid-run."""
    accelerate = pytest.importorskip("accelerate", reason=REASON)
    run = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = model()
    optimizer = made(net)
    loader = torch.utils.data.DataLoader(data(), batch_size=4)
    net, optimizer, loader, schedule = run.prepare(net, optimizer, loader, cosine(optimizer))
    for epoch in range(4):
        for x, y in loader:
            with run.accumulate(net):
                run.backward(torch.nn.functional.mse_loss(net(x), y))
                if run.sync_gradients:
                    run.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        if epoch == 1:
            run.save_state(tmp_path)
            for p in net.parameters():
                p.data.zero_()
            run.load_state(tmp_path)
    wanted = by_hand(made, cosine, 4, accumulate=2)
    for a, b in zip(run.unwrap_model(net).parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("made", [adamw, addsign], ids=lambda f: f.__name__)
def test_lightning(made, tmp_path):
    """A module with a schedule and clipping, stopped after two epochs and resumed from its checkpoint."""
    lightning = pytest.importorskip("lightning", reason=REASON)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model()

        def training_step(self, batch, _):
            x, y = batch
            return torch.nn.functional.mse_loss(self.net(x), y)

        def configure_optimizers(self):
            optimizer = made(self.net)
            schedule = {"scheduler": cosine(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    def fit(epochs, resumed=None):
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            gradient_clip_val=1.0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, torch.utils.data.DataLoader(data(), batch_size=4), ckpt_path=resumed)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module

    fit(2)
    module = fit(4, tmp_path / "last.ckpt")
    wanted = by_hand(made, cosine, 4)
    for a, b in zip(module.net.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("made", [adamw, addsign], ids=lambda f: f.__name__)
def test_trainer_of_transformers(made, tmp_path):
    """Accumulated gradients, clipping, a schedule; stopped after two epochs and resumed from a checkpoint."""
    transformers = pytest.importorskip("transformers", reason=REASON)

    class Regression(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model()

        def forward(self, x, labels):
            found = self.net(x)
            return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self):
            rows = [{"x": x, "labels": y} for x, y in data()]
            return self.accelerator.prepare(torch.utils.data.DataLoader(rows, batch_size=4))

    def train(epochs, resumed):
        net = Regression()
        optimizer = made(net)
        settings = transformers.TrainingArguments(
            tmp_path,
            num_train_epochs=epochs,
            gradient_accumulation_steps=2,
            max_grad_norm=1.0,
            save_strategy="epoch",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = InOrder(net, settings, optimizers=(optimizer, cosine(optimizer)))
        trainer.train(resume_from_checkpoint=resumed)
        return net.net

    train(2, resumed=False)
    net = train(4, resumed=True)
    wanted = by_hand(made, cosine, 4, accumulate=2)
    for a, b in zip(net.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)
