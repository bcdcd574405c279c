"""Program 13: three whole programs, with serial code, pools, Ray and Shoal doing the same work."""
