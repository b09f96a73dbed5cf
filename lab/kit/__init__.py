# SPDX-License-Identifier: Apache-2.0
"""The lab's own parts: what a virtual machine is made of (`build`), and how one is run (`machine`).

Standard library only, so that `lab/run` works before anything of the project is installed.
"""
