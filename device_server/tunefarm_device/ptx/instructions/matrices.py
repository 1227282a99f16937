"""mma, ldmatrix: matrices spread over the lanes of a warp."""
