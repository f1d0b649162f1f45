// Checkpoints are a file format that training writes and inference reads: they live in model.
#pragma once

#include "model/checkpoint.hpp"
