"""What a stack says of its own molecule: the covariance of its images, and how likely two show one view.

All in-plane angles are alike, so the covariance joins harmonics of one order only, and because views from
opposite sides are mirror images it is real (Zhao, Shkolnisky, Singer 2016; covariance Wiener filtering:
Bhamre, Zhang, Singer 2016). An image is ``a = c x + ε`` in the `DiscHarmonics` of an order: c its CTF on
their rings, x of covariance C, and ε white. Least squares over the stack gives C in closed form; what cannot
be told from noise is shrunk to nothing (Donoho, Gavish, Johnstone 2018).

Two images show the same view if one x explains both. For Gaussian x the logarithm of the ratio of
likelihoods, same against unrelated views, is a correlation less two terms of one image each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ImagePrior", "StackCovariance", "ViewFeatures", "ViewLikelihood"]

# Above where the largest eigenvalue of white noise lies: with CTFs it is not quite white.
_MARGIN = 1.1
_FEWEST_ANGLES = 64


# Of each order: its features, and a matrix (n, f, f) of them for each image.
_Blocks = list[tuple[slice, Tensor]]


def _left_open(columns: Tensor, orders: Tensor, passed: Tensor) -> _Blocks:
    """What images leave open of each order's features: ``(1 + C^½ c² C^½)⁻¹``, shape (n, f, f).

    Parameters
    ----------
    columns : Tensor, shape (h, f)
        C^½, of features of ascending order.
    orders : Tensor of int, shape (f,)
    passed : Tensor, shape (n, h)
        Squared CTFs.
    """
    found = []
    for order in orders.unique().tolist():
        places = torch.nonzero(orders == order)[:, 0]
        of = slice(int(places[0]), int(places[-1]) + 1)
        rows = torch.nonzero(columns[:, of].abs().sum(1))[:, 0]
        root = columns[rows, of]
        squares = (root[:, :, None] * root[:, None]).flatten(1)
        information = (passed[:, rows] @ squares).unflatten(1, (root.shape[1], -1))
        one = torch.eye(root.shape[1], device=root.device)
        found.append((of, torch.linalg.inv(one + information)))
    return found


def _multiply(blocks: _Blocks, vectors: Tensor) -> Tensor:
    """Blocks (n, f, f) of each order times vectors (n, f)."""
    if not blocks:
        return vectors
    parts = torch.view_as_real(vectors)
    return torch.view_as_complex(torch.cat([block @ parts[:, of] for of, block in blocks], 1).contiguous())


class ViewFeatures(NamedTuple):
    """What images are compared by.

    Attributes
    ----------
    vectors : Tensor, shape (n, f), complex
    own : Tensor, shape (n,)
        What an image takes from the likelihood of every pair it is in.
    """

    vectors: Tensor
    own: Tensor


@dataclass(frozen=True)
class ViewLikelihood:
    """How likely two images of a stack show one view, as `ViewFeatures` to be compared.

    The logarithm of the likelihood ratio, one image turned by φ, is ``constant − own_i − own_j +
    Re Σ_f w_f v_i[f] conj(v_j[f]) exp(i m_f φ)``, with w one for order zero and two for all others.

    Attributes
    ----------
    orders : Tensor of int, shape (f,)
        m of each feature, ascending.
    information : Tensor, shape (f,)
        What one image with an average CTF tells of each feature, in units of what the covariance leaves open.
    mean : Tensor, shape (h,)
        Mean of the coefficients before the CTF.
    constant : float
    columns : Tensor, shape (h, f)
        What takes coefficients to the features, before they are evened out.
    """

    orders: Tensor
    information: Tensor
    mean: Tensor
    constant: float
    columns: Tensor

    def to(self, device: torch.device) -> ViewLikelihood:
        """The same on a device."""
        orders, information, mean, columns = (
            part.to(device) for part in (self.orders, self.information, self.mean, self.columns)
        )
        return ViewLikelihood(orders, information, mean, self.constant, columns)

    @property
    def share(self) -> Tensor:
        """How much the square of each feature counts, shape (f,): a real number is half a complex one."""
        return _share(self.orders).float()

    @property
    def angles(self) -> int:
        """How many in-plane angles to compare at; there must be features."""
        # Where orders are low, finer than they ask for: the exponential is sharper than they are.
        return max(2 * (int(self.orders.max()) + 1), _FEWEST_ANGLES)

    def features(self, filtered: Tensor, passed: Tensor) -> ViewFeatures:
        """Features of images.

        Parameters
        ----------
        filtered : Tensor, shape (n, h), complex
            Coefficients of images filtered by their CTFs.
        passed : Tensor, shape (n, h)
            Squared CTFs on the harmonics' rings.
        """
        mixed = filtered @ self.columns.to(filtered.dtype)
        return self.features_of_mixed(mixed, passed, self.evening(passed))

    def features_of_mixed(self, mixed: Tensor, passed: Tensor, evening: _Blocks) -> ViewFeatures:
        """The same of coefficients times `columns`, shape (n, f), and what `evening` says of the CTFs."""
        vectors = _multiply(evening, mixed - (passed * self.mean) @ self.columns)
        own = self.share * self.information / (1 + self.information)
        return ViewFeatures(vectors, vectors.abs().square() @ own)

    def evening(self, passed: Tensor) -> _Blocks:
        """What makes features of images with squared CTFs (n, h) those of images under an average CTF.

        Of an image that tells A of a view, where an average one would tell Λ, the features are
        ``(1 + Λ) (1 + A)⁻¹`` times as many: the most probable view is the same.
        """
        scale = (1 + 2 * self.information).sqrt()
        left = _left_open(self.columns * scale, self.orders, passed)
        towards = (1 + self.information) / scale
        return [(of, towards[of, None] * open_ * scale[of]) for of, open_ in left]


@dataclass(frozen=True)
class ImagePrior:
    """How probable an image is as one of a stack's, whatever its view.

    Attributes
    ----------
    mean : Tensor, shape (h,)
        Mean of the coefficients before the CTF.
    columns : Tensor, shape (h, f + 1)
        What takes coefficients to C^½ times them; last the mean, which counts as it is.
    orders : Tensor of int, shape (f,)
        m of each feature, ascending.
    """

    mean: Tensor
    columns: Tensor
    orders: Tensor

    def to(self, device: torch.device) -> ImagePrior:
        """The same on a device."""
        return ImagePrior(*(part.to(device) for part in (self.mean, self.columns, self.orders)))

    def evidence(self, mixed: Tensor, known: Tensor, left: _Blocks) -> Tensor:
        """Logarithm of the probability, but for what depends on the image's noise and CTF only.

        Parameters
        ----------
        mixed : Tensor, shape (n, f + 1), complex
            Coefficients of images filtered by their CTFs, times `columns`.
        known : Tensor, shape (n, f + 1)
            The same of the mean, let through by the squared CTFs.
        left : list
            What `left_open` returned for the squared CTFs.

        Returns
        -------
        Tensor, shape (n,)
        """
        vectors = (mixed - known)[:, :-1]
        explained = (vectors.conj() * _multiply(left, vectors)).real
        return explained @ _share(self.orders).to(explained) + mixed[:, -1].real

    def left_open(self, passed: Tensor) -> _Blocks:
        """What images with squared CTFs (n, h) leave open of the view that they show."""
        return _left_open(self.columns[:, :-1], self.orders, passed)


def _share(orders: Tensor) -> Tensor:
    """A real number has half the freedom of a complex one."""
    return torch.where(orders == 0, 0.5, 1.0).double()


class StackCovariance:
    """Collects a stack's second moments, batch by batch.

    Parameters
    ----------
    orders : Tensor of int, shape (h,)
        Of the `DiscHarmonics`, ascending.
    """

    def __init__(self, orders: Tensor) -> None:
        self.orders = orders
        self.members = [torch.nonzero(orders == order)[:, 0] for order in range(int(orders.max()) + 1)]
        self.count = 0
        self._sum, self._passed = (torch.zeros(len(orders), dtype=torch.float64) for _ in range(2))
        self._moments, self._weights, self._mixed = (
            [torch.zeros(len(rows), len(rows), dtype=torch.float64) for rows in self.members]
            for _ in range(3)
        )

    def add(self, filtered: Tensor, passed: Tensor) -> None:
        """Count images in: their coefficients (b, h) filtered by their CTFs, and squared CTFs (b, h)."""
        self.count += len(filtered)
        self._sum += filtered.real.cpu().double().sum(0)
        self._passed += passed.cpu().double().sum(0)
        for order, rows in enumerate(self.members):
            part, weight = filtered[:, rows], passed[:, rows]
            self._moments[order] += (part.T @ part.conj()).real.cpu().double()
            self._weights[order] += (weight.T @ weight).cpu().double()
            if order == 0:
                self._mixed[0] += (part.real.T @ weight).cpu().double()

    @property
    def mean(self) -> Tensor:
        """Mean of the coefficients before the CTF, shape (h,)."""
        return torch.where(self.orders == 0, self._sum / self._passed.clamp_min(1e-12), 0)

    def wiener(self, filtered: Tensor, passed: Tensor) -> Tensor:
        """Covariance Wiener filter: the linear estimate of least expected squared error.

        Parameters
        ----------
        filtered : Tensor, shape (n, h), complex
            Coefficients of images filtered by their CTFs.
        passed : Tensor, shape (n, h)
            Squared CTFs on the harmonics' rings.

        Returns
        -------
        Tensor, shape (n, h), complex
            Coefficients before the CTF.
        """
        mean = self.mean
        estimate = mean.to(filtered).expand_as(filtered).clone()
        for order, rows in enumerate(self.members):
            values, vectors = self._spectrum(order, mean[rows])
            root = (vectors * values.sqrt()).to(passed)
            # x = C^½ (1 + C^½ c² C^½)⁻¹ C^½ (t − c² mean)
            information = root.T @ (passed[:, rows, None] * root) + torch.eye(len(values)).to(passed)
            known = (filtered[:, rows] - passed[:, rows] * mean[rows].to(passed)) @ root.to(filtered)
            solved = torch.linalg.solve(information.to(filtered), known[..., None])[..., 0]
            estimate[:, rows] += solved @ root.T.to(filtered)
        return estimate

    def likelihood(self) -> ViewLikelihood:
        """What the images counted so far say of views. Pure noise gives no features at all."""
        columns, information, orders = self._informed()
        share = _share(orders)
        columns /= (1 + 2 * information).sqrt()
        constant = float((share * ((1 + information).square() / (1 + 2 * information)).log()).sum())
        return ViewLikelihood(orders, information.float(), self.mean.float(), constant, columns.float())

    def prior(self) -> ImagePrior:
        """What the images counted so far say of any other."""
        columns, _, orders = self._informed()
        columns = torch.cat([columns, self.mean[:, None]], 1)
        return ImagePrior(self.mean.float(), columns.float(), orders)

    def _informed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Columns (h, f) of C^½, turned so that what an average CTF lets through of them is diagonal.

        Beside them these diagonals (f,), and the order of each column.
        """
        mean = self.mean
        columns, informations, orders = [torch.zeros(len(self.orders), 0)], [torch.zeros(0)], []
        for order, rows in enumerate(self.members):
            values, vectors = self._spectrum(order, mean[rows])
            root = vectors * values.sqrt()
            transmitted = self._passed[rows] / max(self.count, 1)
            information, turn = torch.linalg.eigh(root.T @ (transmitted[:, None] * root))
            column = torch.zeros(len(self.orders), len(values), dtype=torch.float64)
            column[rows] = root @ turn
            columns.append(column)
            informations.append(information.clamp_min(0))
            orders += [order] * len(values)
        return (
            torch.cat(columns, 1).double(),
            torch.cat(informations).double(),
            torch.tensor(orders, dtype=torch.long),
        )

    def _spectrum(self, order: int, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors, as columns, of an order's covariance that stand out of the noise."""
        rows = self.members[order]
        weights, noise = self._weights[order], self._passed[rows]
        moments = self._moments[order]
        if order == 0:
            mixed = self._mixed[0] * mean
            moments = moments - mixed - mixed.T + weights * mean[:, None] * mean
        covariance = (moments - torch.diag(noise)) / weights.clamp_min(1e-12)
        # In units of the noise that an image deconvolved by least squares has.
        unit = (noise / weights.diagonal().clamp_min(1e-12)).sqrt()
        found, vectors = torch.linalg.eigh(covariance / (unit[:, None] * unit))
        aspect = len(rows) / (self.count * (1 if order == 0 else 2))
        spread = found + 1
        stands_out = spread > _MARGIN * (1 + aspect**0.5) ** 2
        spread, vectors = spread[stands_out], vectors[:, stands_out]
        inner = spread + 1 - aspect
        true = (inner + (inner.square() - 4 * spread).clamp_min(0).sqrt()) / 2 - 1
        # Noise turns the vectors as well: of a unit vector found, this much is the true one.
        cosine = (1 - aspect / true.square()) / (1 + aspect / true)
        root = unit[:, None] * vectors * (true * cosine.clamp_min(0)).sqrt()
        # Orthogonal again, as the units are not all the same.
        left, scale, _ = torch.linalg.svd(root, full_matrices=False)
        kept = scale > 0
        return scale[kept].square(), left[:, kept]
